"""One file for each kind of chart: a section of report.json in, a chart of altair out."""
