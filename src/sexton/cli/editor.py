"""Text that a person writes in their editor."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from sexton import errors


def written(about: str) -> str:
    """What the user writes in $VISUAL or $EDITOR. Raises `UsageError` where there is nobody to write, or no editor."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise errors.UsageError(reason='no text; as in `sexton note RUN "TEXT"`, or with - to read it from stdin')
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"  # noqa: TID251 - the user's editor, not a setting of ours
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"note-{about}.md")
        file.touch()
        try:
            ended = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
        except (OSError, ValueError) as error:
            raise errors.UsageError(reason=f"the editor {editor!r} can not be started ({error}); set EDITOR") from None
        if ended != 0:
            raise errors.UsageError(reason=f"the editor {editor!r} ended with exit code {ended}, so no note was added")
        return file.read_text(errors="replace")
