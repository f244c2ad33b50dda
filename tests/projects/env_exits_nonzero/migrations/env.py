import sys

print("the app cannot start")
sys.exit(3)
