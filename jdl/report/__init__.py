"""A report of runs: one page that opens anywhere; or its tables in Markdown or LaTeX."""

from jdl.report.write import report as report
