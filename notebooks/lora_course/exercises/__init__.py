"""Exercises for `notebooks/exercises`: one module for each, with the check that its notebook calls.

checking.py   how a student's function is checked, and what the student is told
mistakes.py   usual mistakes as edits of a plain solution, alone and two at a time: which give what was found?
comparing.py  how a result differs, in words; errors.py: what an error in the function means; derivatives.py
watching.py   which products a function forms, seen from the arrays that it is given
generate.py   student copies from the notebooks with solutions: `python -m lora_course.exercises`
matmul.py ... capstone.py   for each topic: cases, reference, usual mistakes with their hints
"""
