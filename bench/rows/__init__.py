"""What users wait for, on netoverlay and on what they use today, side by side: python -m bench.rows"""
