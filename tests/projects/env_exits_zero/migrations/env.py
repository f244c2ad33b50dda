import sys

print("nothing to see here")
sys.exit(0)
