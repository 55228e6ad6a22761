"""One request, straight down: the reference that every faster way must equal.

Prefill once per guidance branch, then a packed velocity call per step, then decode. Knows no queue and no
clock; progress is told to a callback, which may raise Cancelled.
"""

import torch

from model.drawing import Drawing, Drawn, Easel, plan_drawing
from model.family import Family
from model.images import to_pictures
from model.question import Answered, Question, Reply, read_question
from model.request import Listener, Progress, ignore


@torch.inference_mode()
def draw(family: Family, drawing: Drawing, listener: Listener = ignore) -> Drawn:
    """Make the pictures of one request.

    Raises:
        BadRequest: A field cannot be done as asked; its subclasses say which.
        MissingCapability: The checkpoint does not draw, or does not edit.
        Cancelled: The listener asked to stop.
    """
    plan = plan_drawing(family, drawing)
    listener(Progress(stage="prefill", done=0, total=1))
    prompts = [family.prepare(prompt) for prompt in plan.prompts.values()]
    contexts = dict(zip(plan.prompts, family.prefill(prompts), strict=True))
    easel = Easel(family, drawing, plan, contexts, family.encode(drawing.images))
    easel.usage.prompt_image_tokens = prompts[0].num_image_tokens
    while not easel.is_done:
        listener(Progress(stage="denoise", done=easel.num_done, total=plan.num_steps))
        easel.advance(family.velocity(easel.rows()))
    listener(Progress(stage="decode", done=0, total=len(easel.walks)))
    return easel.finish(to_pictures(family.decode(easel.latents)))


@torch.inference_mode()
def answer(family: Family, question: Question, listener: Listener = ignore) -> Answered:
    """Answer one question.

    Raises:
        BadRequest: The conversation cannot be read as asked.
        MissingCapability: The checkpoint does not answer.
        Cancelled: The listener asked to stop.
    """
    prompt = family.prepare(read_question(question, family.capabilities))
    listener(Progress(stage="prefill", done=0, total=1))
    (context,) = family.prefill([prompt])
    reply = Reply(family, question, context)
    reply.usage.prompt_image_tokens = prompt.num_image_tokens
    while not reply.is_done:
        done = len(reply.tokens)
        listener(Progress(stage="answer", done=done, total=question.max_tokens, text=reply.text))
        reply.advance(family.next_tokens([reply.row()])[0])
    return reply.finish()
