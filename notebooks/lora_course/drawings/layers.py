"""Drawings of the LoRA layer: its matrices to scale, its gradients, its rank, and a 4-bit base."""

from lora_np.costs.memory import NF4_BYTES

from .parts import BLUE, GREEN, GREY, MUTED, ORANGE, Canvas


def lora(d_out=768, d_in=768, r=8):
    """W beside B and A, all three to scale. d_out, d_in: the shape of W. r: the rank.

    ValueError unless 1 <= r <= min(d_out, d_in).
    """
    if not 1 <= r <= min(d_out, d_in):
        raise ValueError(f"r must be from 1 to {min(d_out, d_in)}, got {r}")
    scale, few, many = 190 / max(d_out, d_in), r * (d_out + d_in), d_out * d_in
    tall, wide = d_out * scale, d_in * scale
    canvas, left, right, foot = Canvas(490), 155, 405, 345
    canvas.matrix(left - wide / 2, foot - tall, d_out, d_in, scale, "frozen", "W")
    canvas.matrix(right - wide / 2, foot - r * scale, r, d_in, scale, "trained", "A")
    top = foot - r * scale - 24 - tall
    canvas.matrix(right - r * scale / 2, top, d_out, r, scale, "trained", "B")
    canvas.label(left, foot - tall / 2, f"W, frozen\n{d_out} × {d_in}\n{many:,}\nnumbers")
    beside = right + r * scale / 2 + 12
    canvas.label(beside, top + tall / 2, f"B, trained\n{d_out} × {r}\nzero at the start", anchor="start", colour=ORANGE)
    canvas.label(right + 14, foot + 24, f"A, trained: {r} × {d_in}\nrandom at the start", 15, "start", ORANGE)
    canvas.box(left - 65, 408, 130, 30, "x", "data")
    thin = {"colour": GREY, "width": 1.5}
    canvas.arrow((left, 408), (left, foot + 4), **thin)
    canvas.arrow((left + 65, 423), (right, 423), (right, foot + 5), **thin)
    canvas.arrow((right, foot - r * scale - 3), (right, top + tall + 3), **thin)
    canvas.circle(left, 100, "+")
    canvas.arrow((left, foot - tall - 4), (left, 117), **thin)
    canvas.arrow((right, top - 4), (right, 100), (left + 17, 100), **thin)
    canvas.label((left + right) / 2 + 10, 84, "times s = α / r", 15)
    canvas.arrow((left, 85), (left, 74), **thin)
    canvas.box(left - 115, 42, 230, 30, "h = Wx + s·BAx", "data")
    canvas.label(300, 464, f"Areas are to scale. A and B: {few:,} numbers, {100 * few / many:.2f}% of W's.", 15)
    return canvas.drawing(
        "lora",
        "LoRA: a frozen matrix and two thin ones",
        f"The input x goes two ways. One leads through the frozen matrix W with {d_out} rows and {d_in} columns. The "
        f"other leads through A, with {r} rows and {d_in} columns, then through B, with {d_out} rows and {r} columns; "
        "its result is multiplied by s, which is alpha over r. The sum of both is h. A and B are trained; A is random "
        f"and B zero at the start. To scale, W is a large area of {many:,} numbers, A and B are thin strips of {few:,} "
        f"together, {100 * few / many:.2f} percent.",
    )


def lora_gradients():
    """The same layer with what goes back through it: which gradients are computed and which is not."""
    canvas = Canvas(512)
    canvas.box(40, 420, 120, 36, "x", "data")
    canvas.box(40, 240, 120, 56, "W\nfrozen", "frozen")
    canvas.box(290, 320, 120, 56, "A\ntrained", "trained")
    canvas.box(290, 180, 120, 56, "B\ntrained", "trained")
    canvas.circle(100, 110, "+")
    canvas.box(40, 46, 120, 34, "y", "data")
    canvas.arrow((85, 420), (85, 298))
    canvas.arrow((85, 240), (85, 120))
    canvas.arrow((100, 95), (100, 82))
    canvas.arrow((160, 431), (335, 431), (335, 379))
    canvas.arrow((335, 318), (335, 239))
    canvas.arrow((335, 178), (335, 103), (117, 103))
    canvas.label(225, 88, "times s", 15)
    canvas.arrow((117, 117), (365, 117), (365, 176), colour=GREEN)
    canvas.arrow((365, 238), (365, 316), colour=GREEN)
    canvas.arrow((365, 379), (365, 445), (163, 445), colour=GREEN)
    canvas.arrow((115, 125), (115, 237), colour=GREEN)
    canvas.arrow((115, 298), (115, 417), colour=GREEN)
    canvas.label(124, 170, "dy", 15, "start", GREEN)
    canvas.label(124, 350, "Wᵀ dy", 15, "start", GREEN)
    canvas.label(376, 146, "s dy", 15, "start", GREEN)
    canvas.label(376, 278, "dh = s Bᵀ dy", 15, "start", GREEN)
    canvas.label(325, 278, "h = A x", 15, "end")
    canvas.label(376, 412, "Aᵀ dh", 15, "start", GREEN)
    canvas.label(424, 208, "dB = s dy hᵀ", 16, "start", ORANGE, bold=True)
    canvas.label(424, 348, "dA = dh xᵀ", 16, "start", ORANGE, bold=True)
    canvas.label(174, 268, "dW: never\ncomputed", 15, "start", MUTED)
    canvas.label(300, 482, "Black: forward. Green: backward.\nWhile B = 0, dh and dA are zero; dB is not.", 15.5)
    return canvas.drawing(
        "lora-gradients",
        "What goes back through a LoRA layer",
        "Forward, x goes through W and, beside it, through A and B and the factor s; the two results are added to "
        "y. Backward, dy goes to both. B gets dB = s dy h transposed, where h = A x. On goes dh = s B transposed "
        "dy. A gets dA = dh x transposed. To x goes A transposed dh and, through the frozen W, W transposed dy. A "
        "gradient of W is never computed. While B is zero, dh and dA are zero and dB is not.",
    )


def rank(r=3):
    """ΔW as a sum of r products of a column of B and a row of A. r: how many are drawn, 2 or 3."""
    canvas, size, thin = Canvas(330), 84, 12
    canvas.box(14, 120, size, size, "ΔW", "trained", 20)
    canvas.label(130, 162, "= s (", 20)
    step, left = 138, 160
    for k in range(1, r + 1):
        x = left + step * (k - 1)
        canvas.matrix(x, 120, 7, 1, thin, "trained", f"b{k}")
        canvas.matrix(x + thin + 5, 103, 1, 7, thin, "data", f"a{k}")
        canvas.box(x + thin + 5, 120, size, size, f"b{'₁₂₃'[k - 1]} a{'₁₂₃'[k - 1]}", "empty", 18)
        canvas.label(x + step - 18, 162, "+" if k < r else ")", 20)
    canvas.brace(left, 214, step * r - 34, f"r = {r} products, each of rank 1", size=16)
    canvas.label(300, 66, "a column of B (orange) times a row of A (blue)", 15, colour=MUTED)
    canvas.label(300, 282, "Each term reads one direction of the input and writes one\ndirection of the output.", 15)
    return canvas.drawing(
        "rank",
        "The rank: how many simple products are added",
        f"Delta W is s times a sum of {r} terms, drawn for rank {r}. Each term is a column of B, tall and one wide, "
        "times a row of A, wide and one tall. It reads one direction of the input and writes one direction of the "
        f"output, so it has rank 1, and the sum has at most rank {r}.",
    )


def qlora(block=64, blocks=256):
    """How QLoRA stores W and what is multiplied. block: weights with one scale. blocks: scales with one float32."""
    bits = 4 + 8 / block + 32 / (block * blocks)
    assert (block, blocks) != (64, 256) or bits == 8 * NF4_BYTES
    canvas = Canvas(510)
    for i in range(block):
        side = 320 / block
        canvas.add(
            f'<rect class="weight" x="{30 + side * i:g}" y="72" width="{side:g}" height="26" fill="#e4e6e9"'
            f' stroke="{GREY}"/>'
        )
    canvas.box(380, 70, 60, 30, "scale", "data", 15.5)
    canvas.box(490, 70, 86, 30, "float32", "data", 15.5)
    canvas.label(190, 56, f"{block} weights, 4 bits each", 15)
    canvas.label(410, 56, "8 bits", 15)
    canvas.brace(30, 106, 320, "which of 16 levels each weight is nearest to", size=15.5)
    canvas.arrow((352, 85), (378, 85))
    canvas.arrow((442, 85), (488, 85))
    canvas.label(470, 132, f"{blocks} scales share one\nfloat32: quantised twice", 15.5, colour=MUTED)
    canvas.label(300, 176, f"4 + 8/{block} + 32/({block}·{blocks}) = {bits:.3f} bits a weight", 17, bold=True)
    canvas.box(60, 440, 140, 34, "x, 16 bits", "data")
    canvas.box(60, 330, 140, 56, "W, 4 bits\nfrozen", "frozen")
    canvas.box(60, 254, 140, 34, "Ŵ, 16 bits", "plain")
    canvas.box(360, 354, 150, 44, "A, trained", "trained")
    canvas.box(360, 266, 150, 44, "B, trained", "trained")
    canvas.circle(280, 226, "+")
    canvas.arrow((280, 241), (280, 260))
    canvas.box(245, 262, 70, 30, "h", "data")
    canvas.arrow((130, 330), (130, 291), colour=BLUE)
    canvas.label(138, 309, "decoded when used", 15.5, "start", BLUE)
    canvas.arrow((60, 457), (34, 457), (34, 271), (57, 271))
    canvas.arrow((200, 457), (435, 457), (435, 402))
    canvas.arrow((435, 354), (435, 314), colour=ORANGE)
    canvas.arrow((130, 254), (130, 226), (263, 226))
    canvas.arrow((435, 266), (435, 226), (297, 226))
    canvas.label(366, 211, "times s", 15.5)
    canvas.label(524, 332, "16 or\n32 bits", 15, "start", ORANGE)
    canvas.label(300, 492, "Gradients pass through Ŵ on their way down. W itself is never changed.", 15)
    return canvas.drawing(
        "qlora",
        "QLoRA: a 4-bit base, an adapter of full precision",
        f"Above, how W is stored: a block of {block} weights of 4 bits each with a scale of 8 bits; {blocks} scales "
        f"share one float32. That makes {bits:.3f} bits a weight. Below, how it is used: the 4-bit W is decoded to a "
        "16-bit matrix when it is needed and multiplied by the 16-bit input. Beside it, the input goes through A "
        "and B, which are trained in 16 or 32 bits. Both results are added. W itself is never changed.",
    )
