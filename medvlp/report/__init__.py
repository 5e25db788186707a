"""The report room: HTML for people and JSON for programs, from the predictions alone."""
