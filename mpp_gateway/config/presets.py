"""Services that are known by name: where they are, how they take a key, what they offer."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Preset:
    """What a service needs apart from your key and your prices."""

    name: str
    title: str
    base_url: str
    auth_header: str
    """Name of the field that carries the key."""
    auth_value: Callable[[str], str]
    """Turns the key into the field's value."""
    key_form: str
    """How the key is sent, in words."""
    routes: Mapping[str, str]
    """Known route keys and what each does: titles for the discovery documents."""
    steering_headers: frozenset[str] = frozenset()
    """Lower-case names of fields with which a caller of the API picks the account that is billed or
    acted for. A buyer must not: the key is yours."""
    categories: tuple[str, ...] = ()
    docs_llms_url: str | None = None


def _bearer(key: str) -> str:
    return f"Bearer {key}"


def _plain(key: str) -> str:
    return key


def _basic_user(key: str) -> str:
    return "Basic " + b64encode(f"{key}:".encode()).decode("ascii")


OPENAI = Preset(
    name="openai",
    title="OpenAI",
    base_url="https://api.openai.com",
    auth_header="Authorization",
    auth_value=_bearer,
    key_form="`Authorization: Bearer <api_key>`",
    steering_headers=frozenset({"openai-organization", "openai-project"}),
    categories=("compute",),
    routes=MappingProxyType(
        {
            "POST /v1/chat/completions": "Create a chat completion",
            "POST /v1/completions": "Create a completion",
            "POST /v1/responses": "Create a model response",
            "POST /v1/embeddings": "Create embeddings",
            "POST /v1/images/generations": "Create images",
            "POST /v1/images/edits": "Edit images",
            "POST /v1/images/variations": "Create variations of an image",
            "POST /v1/audio/transcriptions": "Transcribe audio",
            "POST /v1/audio/translations": "Translate audio",
            "POST /v1/audio/speech": "Create speech",
            "POST /v1/moderations": "Classify texts",
            "GET /v1/models": "List models",
            "GET /v1/models/:model": "Get a model",
        }
    ),
)

ANTHROPIC = Preset(
    name="anthropic",
    title="Anthropic",
    base_url="https://api.anthropic.com",
    auth_header="x-api-key",
    auth_value=_plain,
    key_form="`x-api-key: <api_key>`; the client's own `anthropic-version` passes through",
    steering_headers=frozenset(
        {"anthropic-organization-id", "anthropic-workspace-id", "authorization"}
    ),
    categories=("compute",),
    routes=MappingProxyType(
        {
            "POST /v1/messages": "Create a message",
            "POST /v1/messages/count_tokens": "Count the tokens of a message",
            "POST /v1/messages/batches": "Create a batch of messages",
            "GET /v1/messages/batches": "List batches of messages",
            "GET /v1/messages/batches/:batchId": "Get a batch of messages",
            "POST /v1/complete": "Create a text completion",
            "GET /v1/models": "List models",
            "GET /v1/models/:model": "Get a model",
        }
    ),
)

STRIPE = Preset(
    name="stripe",
    title="Stripe",
    base_url="https://api.stripe.com",
    auth_header="Authorization",
    auth_value=_basic_user,
    key_form="`Authorization: Basic <api_key as user name>`",
    steering_headers=frozenset({"stripe-account", "stripe-context"}),
    routes=MappingProxyType(
        {
            "POST /v1/charges": "Create a charge",
            "POST /v1/customers": "Create a customer",
            "GET /v1/customers/:id": "Get a customer",
            "POST /v1/payment_intents": "Create a payment intent",
            "GET /v1/payment_intents/:id": "Get a payment intent",
            "POST /v1/subscriptions": "Create a subscription",
            "GET /v1/subscriptions/:id": "Get a subscription",
            "POST /v1/invoices": "Create an invoice",
            "GET /v1/invoices/:id": "Get an invoice",
        }
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for preset in (OPENAI, ANTHROPIC, STRIPE)}
)
