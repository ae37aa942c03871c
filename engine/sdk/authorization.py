"""AuthType: how a platform comes to know a community."""

from __future__ import annotations


class AuthType:
    """The ways of authorization that a plugin may name as its ``auth_type``.

    Attributes:
        NONE: The platform asks for nothing.
        API_KEY: The community's config holds a key.
        OAUTH: A person or an app is authorised by OAuth.
        USER_LOGIN: A person logs in at the platform.
        APP_INSTALL: An app is installed into the community's space.
    """

    NONE = "none"
    API_KEY = "api_key"
    OAUTH = "oauth"
    USER_LOGIN = "user"
    APP_INSTALL = "app"
