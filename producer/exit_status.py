"""What a command's exit status says. 0: all went well; 1: it failed; and these."""

from __future__ import annotations

#: a mistake in the command or in a setting; nothing was done
USAGE = 2
#: it was done, and not for all: rows failed, or an id was not open
NOT_ALL = 3
#: a lost or a full Redis, or SIGTERM: the same command later goes on where this one ended (EX_TEMPFAIL of sysexits.h)
TEMPORARY = 75
#: by Ctrl-C
INTERRUPTED = 130
