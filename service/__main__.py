"""The command line of the service: `hyperdraw-serve`, also `python -m service`."""

import sys

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from models.device import DeviceError
from models.memory import keep_freed_memory
from service.app import create_app
from service.catalog import ConfigurationError
from service.logs import configure_logs
from service.settings import Settings


def main() -> None:
    """Reads the settings, loads the models, and serves until it is stopped."""
    keep_freed_memory()
    try:
        settings = CliApp.run(Settings)
        configure_logs(settings.log_format, settings.log_level)
        app = create_app(settings)
    except ValidationError as error:
        sys.exit(f"hyperdraw-serve: invalid settings: {error}")
    except (ConfigurationError, DeviceError) as error:
        sys.exit(f"hyperdraw-serve: {error}")
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=30,
        server_header=False,
        log_config=None,  # its loggers go where all go
        access_log=False,
    )


if __name__ == "__main__":
    main()
