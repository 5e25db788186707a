"""The timeline of a recording: which phase when, told while it runs, from the past alone."""
