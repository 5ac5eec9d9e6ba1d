"""`python -m lora_course.exercises`: see generate.py."""

from .generate import main

raise SystemExit(main())
