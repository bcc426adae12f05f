"""Answer a scheduler: the question on standard input, the answer on standard output.

``python -m oar_accounting.schedulers.answer SECONDS``: after so many seconds the process ends
whatever it does, should nobody be there any more who would end it. What goes wrong is the last line
on standard error where it is no answer itself.
"""

import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress


def main(arguments: Sequence[str]) -> None:
    """Answer the question. Raises SystemExit with the reason where it cannot be read."""
    # Whatever the scheduler that started this process ignores or blocks.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.alarm(max(1, int(arguments[0])))
    # Where memory runs out, it is not the scheduler that goes.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    from oar_accounting.schedulers.answers import Answers

    with Answers() as answers:
        reply = answers.reply(json.load(sys.stdin))
    # In letters of its own, whatever those of the scheduler are.
    sys.stdout.buffer.write(reply.encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    main(sys.argv[1:])
