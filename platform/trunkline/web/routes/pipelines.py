"""/v1: the ways that deals go, stage by stage."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.crm import models, queries, service
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.routes.pushed import Text

router = APIRouter(prefix="/v1", tags=["deals"])

Name = Annotated[Text, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]


class StageOf(BaseModel):
    """A step of a pipeline."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["proposal"])
    outcome: Literal["open", "won", "lost"] = Field(
        "open", description="What a deal in it counts as.", examples=["open"]
    )


_STAGES: list[JsonValue] = [
    {"name": "qualified", "outcome": "open"},
    {"name": "proposal", "outcome": "open"},
    {"name": "won", "outcome": "won"},
    {"name": "lost", "outcome": "lost"},
]


class NewPipeline(BaseModel):
    """A pipeline and its stages, in the order that deals go through them."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "Sales", "stages": _STAGES}]}
    )

    name: Name = Field(examples=["Sales"])
    stages: list[StageOf] = Field(
        min_length=1, max_length=50, description="Each with a name of its own.", examples=[_STAGES]
    )


class PipelineOut(BaseModel):
    """A pipeline."""

    name: str = Field(examples=["Sales"])
    stages: list[StageOf] = Field(description="In order.", examples=[_STAGES])


class Pipelines(BaseModel):
    """All pipelines, by name."""

    data: list[PipelineOut]


def _shown(pipeline: models.Pipeline) -> PipelineOut:
    return PipelineOut(
        name=pipeline.name, stages=[StageOf.model_validate(stage) for stage in pipeline.stages]
    )


@router.post(
    "/pipelines", operation_id="create_pipeline", summary="Make a pipeline", status_code=201,
    response_model=PipelineOut, responses=documented(401, 403, 409, 422),
)  # fmt: skip
async def create_pipeline(
    body: NewPipeline, parts: Parts, once: DoOnce, key: ApiKey = needs("contacts:write")
) -> Response:
    """Deals can be pushed once there is one. 409 when the name is taken."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        stages = [service.Stage(stage.name, stage.outcome) for stage in body.stages]
        made = await service.create_pipeline(
            session, name=body.name, stages=stages, now=parts.now()
        )
        return 201, _shown(made)

    return await once.run(work)


@router.get(
    "/pipelines", operation_id="list_pipelines", summary="List pipelines",
    responses=documented(401, 403),
)  # fmt: skip
async def list_pipelines(parts: Parts, key: ApiKey = needs("contacts:read")) -> Pipelines:
    """All of them: there are few."""
    async with parts.db.look() as session:
        return Pipelines(data=[_shown(each) for each in await queries.pipelines(session)])
