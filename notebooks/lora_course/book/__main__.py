"""`python -m lora_course.book`: see build.py."""

from .build import main

raise SystemExit(main())
