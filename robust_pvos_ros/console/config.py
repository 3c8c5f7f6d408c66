"""What the console is told at start, and who may reach it.  No ROS."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robust_pvos_ros.tracking.types import PvosError

TOKEN_VARIABLE = 'ROBUST_PVOS_CONSOLE_TOKEN'
SHORTEST_TOKEN = 16
LONGEST_TOKEN = 256


class ConsoleError(PvosError):
    """The console cannot run as it was told to."""


@dataclass(frozen=True)
class ConsoleConfig:
    """How the console runs.

    Attributes:
        host: IP address to listen on; any other than 127.0.0.1 and ::1 needs a token.
        port: TCP port to listen on; 0 takes a free one, which the log tells.
        token_file: file that holds the token; empty takes the environment variable ROBUST_PVOS_CONSOLE_TOKEN.
        node: name of the segmentation node, relative to the namespace of the console.
        picture_quality: of the JPEG pictures.
        picture_side: most pixels of a side of the pictures; masks keep the size of the camera's.
        max_pages: most pages that may be open at once.
        record_folder: folder that the bags of the record button are made in; empty takes robust_pvos_bags in the home
            folder.
    """

    host: str = '127.0.0.1'
    port: int = 8100
    token_file: str = ''
    node: str = 'robust_pvos'
    picture_quality: int = 80
    picture_side: int = 1280
    max_pages: int = 8
    record_folder: str = ''

    @property
    def folder(self) -> Path:
        """Where bags go."""
        return Path(self.record_folder).expanduser() if self.record_folder else Path.home() / 'robust_pvos_bags'


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine alone.

    Raises:
        ConsoleError: if it is no IP address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConsoleError(
            f'parameter host must be an IP address such as 127.0.0.1, or 0.0.0.0 for all of this machine, got {host!r}'
        ) from error


def read_token(config: ConsoleConfig, environment: Mapping[str, str]) -> str:
    """The token that requests must show; empty where none is needed.

    Raises:
        ConsoleError: if it is missing where it is needed, too short, too long or not plain ASCII.
    """
    token, source = environment.get(TOKEN_VARIABLE, ''), f'the environment variable {TOKEN_VARIABLE}'
    if config.token_file:
        source = f'the file {config.token_file} (parameter token_file)'
        try:
            token = Path(config.token_file).expanduser().read_text(encoding='ascii').strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConsoleError(f'{source} cannot be read as text: {error}') from error
        if not token:
            raise ConsoleError(f'{source} is empty: it must hold a token of at least {SHORTEST_TOKEN} characters')
    if not token:
        if is_loopback(config.host):
            return ''
        raise ConsoleError(
            f'{config.host} can be reached from other machines: give a token of at least {SHORTEST_TOKEN} characters '
            f'in the environment variable {TOKEN_VARIABLE} or in a file named by token_file, or listen on 127.0.0.1'
        )
    is_loopback(config.host)
    plain = token.isascii() and token.isprintable() and ' ' not in token
    if not plain or not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN:
        raise ConsoleError(
            f'the token in {source} must have {SHORTEST_TOKEN} to {LONGEST_TOKEN} printable ASCII characters without '
            f'spaces, got {len(token)} characters'
        )
    return token


def session_of(token: str) -> str:
    """The value of the cookie that stands for a token; it outlives a restart and does not tell the token."""
    return hmac.new(token.encode(), b'robust_pvos console session', 'sha256').hexdigest()
