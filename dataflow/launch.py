"""The program of the Flex template: the launcher calls it with the template's parameters, and it submits the job."""

import sys

from pipeline import cli
from pipeline.options import flex

if __name__ == "__main__":
    sys.argv[1:] = flex.command_line(sys.argv[1:])
    cli.entry()
