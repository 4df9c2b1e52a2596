"""JPEG baseline (ITU-T T.81), decoder and encoder."""
