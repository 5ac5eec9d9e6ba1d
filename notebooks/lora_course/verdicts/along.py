"""Training with looks along the way."""

from lora_np.training.loop import TrainingRun

SETTLED_EVERY = 40  # steps


def look_along(model, data, args, marks, look, recorded=True):
    """Train up to the last mark and call look(step) at each; has it diverged?

    recorded: on a GPU, may the step be recorded and replayed?
    """
    run = TrainingRun(model, args)
    run.recorded = run.recorded if recorded else None
    model.train()
    run.watch.keep()
    try:
        for step in range(1, max(marks) + 1):
            run.one_step(data)
            if step % SETTLED_EVERY == 0 or step in marks:
                run.watch.settle()
            if step in marks:
                look(step)
    except FloatingPointError:
        return True
    finally:
        model.eval()
    return False
