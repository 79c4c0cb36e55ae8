"""What `data/images.py` needs to decode: colours that a file states, raw files, HEIF, and kinds of TIFF that Pillow lacks."""
