"""`python -m lora_np.course.exercises`: see generate.py."""

from .generate import main

raise SystemExit(main())
