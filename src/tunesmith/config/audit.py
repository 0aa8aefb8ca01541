"""What an audit looks for, and how much of it is let pass."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.config.strict import Section

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class OverlapThresholds(Section):
    """When two rows count as the same text, and when one has seen the other."""

    near_duplicate: Rate = 0.6
    """Jaccard similarity of the 5-character shingles of two rows, from which they are near duplicates."""
    user_ngram: Count = 8
    """Words in a row that a held-out question and a training row must share to overlap."""
    user_share: Rate = 0.5
    """Share of a question's n-grams found in one training row, from which the row has seen it."""
    answer_ngram: Count = 13
    """Words in a row that a held-out answer and a training answer must share to be reported."""


class MeaningThresholds(Section):
    """When a row is far from the domain or its answer from what its neighbours are answered."""

    embeddings: Literal["auto", "minilm", "tfidf"] = "auto"
    """What similarity is computed from: the sentence embeddings of the extra `embeddings`, or TF-IDF
    (Salton and Buckley, 1988). Auto takes the embeddings where they are installed and rows are few."""
    embed_rows: Count = 20_000
    """Rows above which auto takes TF-IDF, and neighbours are not searched."""
    min_relevance: Rate = 0.30
    """Similarity of embeddings to the nearest question of the sanity set, below which a row is off topic."""
    min_relevance_tfidf: Rate = 0.10
    """The same where similarity is computed from TF-IDF."""
    neighbours: Count = 10
    """Rows with the most similar answers, among which the numbers of an answer must occur."""
    min_support: Count = 2
    """Neighbours that must state a number too, where the declared knowledge does not."""
    min_odds: Rate = 0.01
    """How probable an answer must be for its question, measured against the most probable one: other rows tell."""
    min_label: Rate = 0.1
    """How probable a label must be for its answer: other rows tell."""
    max_off_topic_rate: Rate = 0.05
    """Rows below `min_relevance`."""
    max_wrong_rate: Rate = 0.02
    """Rows whose answer is likely wrong."""


class DiversityThresholds(Section):
    """How varied the rows should be."""

    sample: Count = 1_000
    """Rows that diversity is measured on."""
    min_coverage: Rate = 0.9
    """Share of the held-out rows' clusters in which there are training rows too."""
    min_balance: Rate = 0.7
    """Evenness of `data.stratify_by` over the training rows: entropy by that of equal shares."""


class PreferenceThresholds(Section):
    """What preference rows may show."""

    max_length_bias: Rate = 0.75
    """Share of pairs whose preferred reply is the longer one; length is then what is learned."""
    max_disagreement: Rate = 0.1
    """Share of pairs that another row prefers the other way round."""


class DifficultyThresholds(Section):
    """What the base model finds trivial or impossible (Li et al., 2024, from whom the ratio comes)."""

    trivial_loss: Annotated[float, Field(ge=0)] = 0.2
    """Loss in nats per token of the answer under the base, below which it is known already."""
    impossible_ratio: Annotated[float, Field(ge=0)] = 1.0
    """loss(answer | prompt) / loss(answer), from which the prompt does not help to predict the answer."""


class AuditLimits(Section):
    """What the audit lets pass. A rate is a share of the rows that a check looks at."""

    max_broken_rate: Rate = 0.0
    """Wrong roles, empty turns, damaged encoding, left-over template markup."""
    max_inconsistent_rate: Rate = 0.05
    """Answers in another format than the experiment's `extract` tasks read, or with another label."""
    max_duplicate_rate: Rate = 0.0
    """Rows that repeat another row exactly."""
    max_near_duplicate_rate: Rate = 0.01
    """Rows that nearly repeat another row."""
    max_contradiction_rate: Rate = 0.01
    """Rows whose question is answered differently by another row."""
    max_holdout_overlap: Rate = 0.0
    """Rows of tune, holdout or bench whose user turns also occur in train."""
    max_task_overlap: Rate = 0.0
    """Items of the sanity set or of an evaluation task, outside train, that occur in train."""
    max_private_rate: Rate = 0.0
    """Rows with personal data or secrets."""
    min_rows: Count = 1
    """Fewest rows that the source may have."""
    overlap: OverlapThresholds = OverlapThresholds()
    """Thresholds of duplicates and contamination."""
    meaning: MeaningThresholds = MeaningThresholds()
    """Thresholds of relevance and accuracy."""
    diversity: DiversityThresholds = DiversityThresholds()
    """Thresholds of diversity."""
    preferences: PreferenceThresholds = PreferenceThresholds()
    """Thresholds of preference rows."""
    difficulty: DifficultyThresholds = DifficultyThresholds()
    """Thresholds of `audit --model`."""
