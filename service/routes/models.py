"""What is served, and what it can do."""

from typing import get_args

from fastapi import APIRouter

from model.flow import MAX_STEPS
from service.deps import ReadyServiceDep, Service, ServiceDep, TenantDep
from service.routes.responses import GUARDED
from service.schemas.answers import CapabilitiesAnswer, Defaults, Limits, ModelCard, ModelList, SizeLimits
from service.schemas.drawing import MAX_N, MAX_PARTIAL_IMAGES, OutputFormat, ResponseFormat

router = APIRouter(tags=["models"], responses=GUARDED)


@router.get("/v1/models")
async def list_models(_: TenantDep, service: ServiceDep) -> ModelList:
    """List the models that are served, in the OpenAI API's form."""
    return ModelList(data=[_card(service)])


@router.get("/v1/models/{model_id:path}")
async def show_model(model_id: str, _: TenantDep, service: ServiceDep) -> ModelCard:
    """Show one model."""
    service.check_model(model_id)
    return _card(service)


@router.get("/v1/capabilities")
async def show_capabilities(_: TenantDep, service: ReadyServiceDep) -> CapabilitiesAnswer:
    """Say what the loaded model can do, within which limits, and what a field is when it is left out."""
    can = service.client.capabilities
    return CapabilitiesAnswer(
        model=service.client.model_id,
        family=can.family,
        tasks=list(can.tasks),
        solvers=list(can.solvers),
        output_formats=list(get_args(OutputFormat)),
        response_formats=list(get_args(ResponseFormat)),
        guidance_clock=can.guidance_clock,
        quantization=service.client.card.quantization,
        limits=_limits(service),
        defaults=_defaults(service),
        examples=service.client.card.about.examples,
    )


def _card(service: Service) -> ModelCard:
    client = service.client
    return ModelCard(
        id=client.model_id,
        created=service.created,
        weights_sha256=client.card.weights_hash if client.is_loaded else None,
        load_format=service.settings.load_format,
        quantization=service.settings.quantization,
    )


def _limits(service: Service) -> Limits:
    can, settings = service.client.capabilities, service.settings
    return Limits(
        size=SizeLimits(
            step=can.size_step, min_side=can.min_side, max_side=can.max_side, max_pixels=can.max_pixels
        ),
        n=MAX_N,
        partial_images=MAX_PARTIAL_IMAGES,
        num_inference_steps=MAX_STEPS,
        prompt_chars=settings.max_prompt_chars,
        prompt_tokens=can.max_prompt_tokens,
        references=can.max_references,
        images=can.max_images,
        image_pixels=settings.max_image_pixels,
        max_tokens=settings.max_tokens,
        body_bytes=settings.max_body_bytes,
        waiting_jobs=settings.max_waiting,
    )


def _defaults(service: Service) -> Defaults:
    can = service.client.capabilities
    return Defaults(
        size=str(can.default_size),
        n=1,
        num_inference_steps=can.num_inference_steps,
        guidance_scale=can.guidance_scale,
        edit_guidance_scale=can.edit_guidance_scale,
        image_guidance_scale=can.image_guidance_scale,
        guidance_interval=can.guidance_interval,
        guidance_rescale=can.guidance_rescale,
        solver="euler",
        output_format="png",
        response_format="b64_json",
        max_tokens=service.default_max_tokens,
    )
