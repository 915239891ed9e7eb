"""The exit codes of the command, and what they mean."""

OK = 0
FAILED = 1
USAGE = 2
BAD_CONFIG = 3
CANNOT_START = 4
NOT_PAID = 5
OWED = 6
NOT_COMPARED = 7
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
BROKEN_PIPE = 141

EXIT_CODES = """\
exit codes:
  0    done
  1    what was asked for failed; of a payment nothing was kept, unless the text says so
  2    wrong usage
  3    the configuration has mistakes
  4    the gateway cannot start (port in use, store unusable), or its store cannot be read
  5    no payment was made (price above --max, no offer that this key can pay)
  6    paid, or perhaps paid, and not delivered: do not pay again, present MPP_CREDENTIAL
  7    what the payment network says could not be asked, or not for everything
  130  interrupted (Ctrl-C)
  141  whoever read the output left"""
