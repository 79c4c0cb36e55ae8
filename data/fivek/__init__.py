"""MIT-Adobe FiveK as people have it on disk -> paired images."""
