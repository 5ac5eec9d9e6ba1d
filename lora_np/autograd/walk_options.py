"""What torch's `backward` can be told besides the gradient to begin with."""


def gradient_of(grad=None, gradient=None, retain_graph=False, create_graph=False):
    """The gradient to begin with, under either name. NotImplementedError for graphs that would have to be kept."""
    if create_graph:
        raise NotImplementedError("create_graph=True: there is no double backward here, gradients are plain arrays")
    if retain_graph:
        raise NotImplementedError(
            "retain_graph=True: backward() frees the graph as it goes, to save memory. Add the losses up and call it "
            "once, or run the forward pass again"
        )
    return gradient if grad is None else grad
