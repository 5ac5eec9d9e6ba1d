"""How nbgrader makes the students' copies. It reads this file in the course's folder: see TEACHERS.md."""

c = get_config()  # noqa: F821  (nbgrader puts it there)

c.CourseDirectory.course_id = "lora"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError  # your code in the place of this line"}
c.ExecutePreprocessor.timeout = 600  # seconds for a cell: 14 and 17 train a model; without this it is 30
