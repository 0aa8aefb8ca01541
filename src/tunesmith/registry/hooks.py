"""What a policy lets run when the champion has changed."""

import os
import subprocess

from tunesmith.config.policy import Policy
from tunesmith.registry import aliases
from tunesmith.registry.ledger import Entry
from tunesmith.registry.reigns import HOOK
from tunesmith.tracking import store


def run(policy: Policy, intent: Entry) -> tuple[str, ...]:
    """Run the policy's hook, if it has one, after an alias has been moved.

    Its outcome goes into the ledger, not what it prints. Its failure is returned as a note and changes nothing else.
    """
    hook = policy.after_promotion
    if hook is None:
        return ()
    environment = {
        **os.environ,
        "TUNESMITH_ACTION": str(intent.body["what"]),
        "TUNESMITH_MODEL": policy.model,
        "TUNESMITH_VERSION": str(intent.body["version"]),
        "TUNESMITH_WAS": str(intent.body["was"] or ""),
        "TUNESMITH_LEDGER_ENTRY": str(intent.seq),
    }
    outcome = _execute(hook.command, environment, hook.timeout_seconds)
    aliases.note(policy.model, HOOK, {"of": intent.seq, "command": hook.command[0], "outcome": outcome})
    return () if outcome == "ok" else (f"the hook {hook.command[0]} failed: {outcome}",)


def _execute(command: list[str], environment: dict[str, str], timeout: float) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=store.project_root(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {timeout:g} s"
    except OSError as error:
        return error.strerror or type(error).__name__
    return "ok" if done.returncode == 0 else f"exit status {done.returncode}"
