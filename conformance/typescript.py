"""A client in TypeScript: openapi-typescript's types of the service's description, checked strictly, and used."""

import shutil

from conformance.tools import ENVIRONMENTS, IMAGE, MODEL, PROGRAMS, Command, install_once, make_environment, run

SOURCES = PROGRAMS / "typescript"


def check_typescript(address: str) -> str:
    """Generates types, checks a program that calls predict, weights and infer with them, and runs it.

    Raises:
        CheckFailedError: if there are no types, the program does not match them, or it fails.
        ToolMissingError: if Node.js or packages cannot be installed.
    """
    programs = make_environment("typescript")
    node, folder = programs / "node", ENVIRONMENTS / "typescript" / "project"
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    npm: Command = [programs / "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    install_once(folder / "installed", SOURCES / "package-lock.json", npm, folder=folder)
    modules = folder / "node_modules"
    generator = modules / "openapi-typescript" / "bin" / "cli.js"
    run([node, generator, f"{address}/openapi.json", "--default-non-nullable=false", "--output", "api.ts"], folder)
    run([node, modules / "typescript" / "bin" / "tsc"], folder)
    run([node, "call.ts", address, MODEL, IMAGE], folder)
    return "the types pass tsc --strict; predict, weights and infer are called"
