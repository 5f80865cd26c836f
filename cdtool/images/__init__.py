"""Image files to arrays: decoding, photo folders, augmentation, captioned corpora, contact sheets. Imports no torch."""
