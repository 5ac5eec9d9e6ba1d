"""`python -m lora_course.verdicts NAME ...`: see command.py. (What processes are to find must not be in this file.)"""

from .command import main

if __name__ == "__main__":
    main()
