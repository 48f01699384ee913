"""The settings of providers: the key and the address of each one in the registry."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from backline.embedders import registry


def setting(default: Any, *names: str, description: str, **limits: Any) -> Any:
    """Return a field with its environment variables. The first variable that is set wins."""
    return Field(
        default=default, description=description, json_schema_extra={"names": list(names)}, **limits
    )


def _web_address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return url.rstrip("/")


def _not_empty(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("is empty")
    return secret


WebAddress = Annotated[str, AfterValidator(_web_address)]
Secret = Annotated[SecretStr, AfterValidator(_not_empty)]


def _key(provider: str) -> Any:
    entry = registry.providers()[provider]
    need = "" if entry.key_required else " Unset, none is sent."
    return setting(
        None, *entry.keys, description=f"Key of {entry.title}, for {provider}/ models.{need}"
    )


def _address(provider: str) -> Any:
    entry = registry.providers()[provider]
    unset = f" Unset, {entry.base_url}." if entry.base_url else " Required by its models."
    return setting(
        None, *entry.addresses, description=f"Address of {entry.title}, or a server like it.{unset}"
    )


class ProviderSettings(BaseModel):
    """The key and the address of each provider; a field is named for its provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    openai_api_key: Secret | None = _key("openai")
    openai_base_url: WebAddress | None = _address("openai")
    azure_api_key: Secret | None = _key("azure")
    azure_base_url: WebAddress | None = _address("azure")
    gemini_api_key: Secret | None = _key("gemini")
    gemini_base_url: WebAddress | None = _address("gemini")
    voyage_api_key: Secret | None = _key("voyage")
    voyage_base_url: WebAddress | None = _address("voyage")
    cohere_api_key: Secret | None = _key("cohere")
    cohere_base_url: WebAddress | None = _address("cohere")
    mistral_api_key: Secret | None = _key("mistral")
    mistral_base_url: WebAddress | None = _address("mistral")
    jina_api_key: Secret | None = _key("jina")
    jina_base_url: WebAddress | None = _address("jina")
    nvidia_api_key: Secret | None = _key("nvidia")
    nvidia_base_url: WebAddress | None = _address("nvidia")
    ollama_api_key: Secret | None = _key("ollama")
    ollama_base_url: WebAddress | None = _address("ollama")
    tei_api_key: Secret | None = _key("tei")
    tei_base_url: WebAddress | None = _address("tei")
    vllm_api_key: Secret | None = _key("vllm")
    vllm_base_url: WebAddress | None = _address("vllm")
    compatible_api_key: Secret | None = _key("compatible")
    compatible_base_url: WebAddress | None = _address("compatible")

    def provider_key(self, provider: str) -> SecretStr | None:
        """Return the key of a provider; None if it is not set, or the provider takes none."""
        key: SecretStr | None = getattr(self, f"{provider}_api_key", None)
        return key

    def provider_address(self, provider: str) -> str | None:
        """Return the address that replaces a provider's own; None if it is not set."""
        address: str | None = getattr(self, f"{provider}_base_url", None)
        return address

    def reaches(self, provider: str) -> bool:
        """Return whether a call to a provider has what it needs: an address, and perhaps a key."""
        entry, address = registry.provider(provider), self.provider_address(provider)
        if entry is None:
            return True
        if entry.base_url is None and address is None:
            return False
        return self.provider_key(provider) is not None or not entry.needs_key(address)
