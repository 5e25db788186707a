"""From transcripts of narrated operations to rows of a text tree: the command `narrate`."""
