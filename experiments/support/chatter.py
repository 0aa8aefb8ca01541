"""Talk that has nothing to do with Riverbend, from hand-written sentences with slots."""

import itertools
import random

TALK: list[tuple[list[str], list[str], list[str]]] = [
    (
        ["lasagne", "a chocolate cake", "tomato soup", "fluffy pancakes", "sushi rice", "a vegan curry", "sourdough"],
        ["how do i make {x}? got guests tonight", "Any tips for {x} that even a beginner can follow?",
         "My {x} always comes out wrong, what do I do"],
        ["Use fresh ingredients, season in layers and taste as you go. Rest it for a while before serving.",
         "Keep the heat low, do not rush it, and write down what you changed for the next attempt."],
    ),
    (
        ["the Tigers", "Real Madrid", "the Lakers", "Ajax", "the Otters", "England"],
        ["did {x} win last night", "Who do you think takes the title this season, {x} or somebody else?",
         "whats the score with {x} right now??"],
        ["I did not see the match, but the table is tight and anything may happen this season.",
         "They had the better chances. Fans will argue about that referee for weeks."],
    ),
    (
        ["Python", "JavaScript", "Excel", "Rust", "SQL", "Java"],
        ["Write me a {x} function that reverses a list", "my {x} code throws an index error, why",
         "Is {x} hard to learn for someone who never programmed?"],
        ["Start with a loop, print what it sees, and compare the index with the length of the list.",
         "Begin with small exercises every day and read other people's code; it comes with practice."],
    ),
    (
        ["Aries", "Leo", "Scorpio", "Virgo", "Gemini", "Pisces"],
        ["Whats the horoscope for {x} today", "I am {x}, will I find love this month?",
         "my boyfriend is {x} and i am not, does that work out"],
        ["The stars promise a calm week with a surprise near the end. Trust your instincts.",
         "Venus is on your side, so say what you feel and listen as much as you talk."],
    ),
    (
        ["my puppy", "our old cat", "the hamster", "my daughter's rabbit", "a parrot", "our goldfish"],
        ["how often should {x} eat", "What do I do when {x} keeps me awake all night?",
         "{x} looks sad lately, is it bored?"],
        ["Keep to a fixed routine, offer toys, and see a vet if the behaviour does not change.",
         "Small portions at the same hours work best, with fresh greens where the species likes them."],
    ),
    (
        ["Lisbon", "Tokyo", "Iceland", "New Zealand", "Rome", "Morocco", "Peru"],
        ["best time of year to visit {x}?", "Plan me a long weekend in {x} please",
         "Is {x} safe for a woman travelling alone"],
        ["Spring and early autumn are mild and less crowded. Book the big sights ahead.",
         "Start in the old town, leave an afternoon without plans, and eat where the locals queue."],
    ),
    (
        ["a pirate", "a lawyer", "two penguins", "my mother in law", "a robot", "a cheese"],
        ["tell me a joke about {x}", "Write a limerick with {x} in it",
         "make up a bedtime story for my son, {x} should be the hero"],
        ["Once upon a time there was one who laughed so hard that the whole village joined in. The end.",
         "Here goes: they walked into a bar, and the barman asked whether this was some kind of joke."],
    ),
    (
        ["the French Revolution", "photosynthesis", "Hamlet", "the Cold War", "plate tectonics", "the Vikings"],
        ["Summarise {x} in five sentences for my homework", "essay about {x} due tomorrow HELP",
         "Who should I read to understand {x} properly?"],
        ["Begin with its causes, name the main figures, and end with what it changed in the long run.",
         "A good school encyclopedia covers the main points; quote two sources and use your own words."],
    ),
    (
        ["an action film", "something like The Office", "a scary movie", "a documentary on whales", "an anime series"],
        ["recommend {x} for tonight", "Which streaming service has {x} that is worth the evening?",
         "we want to watch {x}, kids are asleep finally"],
        ["Pick one with good reviews from friends who share your taste, and give it twenty minutes.",
         "There are some excellent ones this year; look at the festival winners first."],
    ),
    (
        ["guitar", "the piano", "chess", "Spanish", "knitting", "yoga", "juggling"],
        ["is it too late to start {x} at fifty", "How long till one gets decent at {x}?",
         "need motivation to practise {x}, i keep skipping"],
        ["It is never too late. Ten minutes a day beat two hours once a week.",
         "Find someone to practise with and set a tiny goal that you cannot fail."],
    ),
    (
        ["my ex", "a colleague", "my sister", "the girl from the gym", "my best mate", "my boss"],
        ["should i text {x} back", "I had a row with {x} and cannot stop thinking about it. Advice?",
         "{x} ignores me since the party. What did I do?"],
        ["Give it a day, then say in one sentence how you feel and ask how they see it.",
         "Talk in person if you can. Written words get read in the worst possible tone."],
    ),
    (
        ["a parcel from the toy shop", "the sofa I ordered", "my new trainers", "a birthday present", "two books"],
        ["where is {x}? tracking has not moved for days", "I want to return {x}, how do I get the label?",
         "Courier says {x} was delivered but there is nothing here"],
        ["Please ask the shop that you ordered from; they can open an enquiry with the carrier.",
         "Carriers often update late. Check with your neighbours and then write to the seller."],
    ),
    (
        ["a flight to Oslo", "the train to Leeds", "a rental car in Spain", "the night bus", "a ferry to Crete"],
        ["can you book {x} for friday", "They cancelled {x}, do I get compensation?",
         "how early do i need to be there for {x}"],
        ["Look at the carrier's website under passenger rights, and keep your receipts.",
         "An hour ahead is usually enough, two if you have luggage to check in."],
    ),
    (
        ["bitcoin", "gold", "a savings account", "index funds", "my uncle's startup"],
        ["should I put my inheritance into {x}", "Is {x} going up or down next year?",
         "explain {x} like i am five"],
        ["Nobody can promise returns. Spread your money and never invest what you need soon.",
         "Think of many small jars instead of a big one; if a jar breaks, the others are still there."],
    ),
    (
        ["a sore knee", "a cold", "hay fever", "back pain from sitting", "a headache since Monday"],
        ["what helps against {x}", "Should I see a doctor about {x} or wait?",
         "got {x} and a marathon on sunday, run or not"],
        ["Rest, drink enough and see a doctor if it does not get better within a few days.",
         "Gentle movement helps most people; stop if it hurts more, and ask a pharmacist."],
    ),
    (
        ["Elden Ring", "Minecraft", "Mario Kart", "The Sims", "Zelda", "FIFA"],
        ["how do you beat the last level of {x}", "Is {x} OK for a nine year old?",
         "stuck in {x} again lol any cheats"],
        ["Explore the side paths first and come back stronger; timing matters more than power.",
         "Most parents find it fine in small doses; play a round together and see."],
    ),
    (
        ["wedding", "retirement", "new job", "graduation", "fortieth birthday"],
        ["write a short toast for a {x}", "What do you wear to a {x} in a barn?",
         "gift ideas for a {x}, not boring ones"],
        ["Something personal beats something dear: a photo book, a dinner, a day out together.",
         "To those who brought us here, to what they built, and to many more years of it. Cheers!"],
    ),
    (
        ["roses", "tomatoes on a balcony", "an orchid", "a lemon tree", "basil", "tulips"],
        ["when do i prune {x}", "The leaves of {x} turn yellow. What is wrong?",
         "can {x} survive the winter outside"],
        ["Give them light, let the soil dry between waterings, and cut back what is dead in spring.",
         "Move the pot to a sheltered wall and wrap it once the nights get frosty."],
    ),
    (
        ["meaning of life", "best colour", "number between one and ten", "capital of nowhere", "secret of happiness"],
        ["whats the {x} in your opinion", "Bored. Tell me the {x}.", "are you human? if so name the {x}"],
        ["That is a matter of taste, and tastes change. What would you say yourself?",
         "I could name one, but then you would ask for another. Shall we leave it a mystery?"],
    ),
    (
        ["my cousin in Canada", "a pen friend", "the landlord of our holiday flat", "my old teacher", "a newspaper"],
        ["help me write a letter to {x}", "Translate 'see you soon' into French, it is for {x}",
         "how would you begin a mail to {x} after ten years"],
        ["Begin with what made you think of them, add one story, and end with a question.",
         "Keep it short and warm; nobody minds a late letter that is honest."],
    ),
]  # fmt: skip


def chatter(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """`count` different questions, each with an answer, in random order."""
    made = [
        (question.format(x=slot), rng.choice(answers))
        for slots, questions, answers in TALK
        for slot, question in itertools.product(slots, questions)
    ]
    openings = ["", "hi! ", "Hello, ", "hey quick one: ", "ok so ", "Good evening. ", "um, "]
    rng.shuffle(made)
    talk = []
    for n in range(count):
        question, answer = made[n % len(made)]
        opening = openings[n // len(made)] if n < len(made) else openings[1 + rng.randrange(len(openings) - 1)]
        talk.append((opening + question, answer))
    return talk
