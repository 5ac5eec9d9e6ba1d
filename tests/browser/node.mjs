// node node.mjs RUNTIME PACKAGES PROGRAM FILE...: run a Python program under Pyodide. Each FILE that is a wheel is
// installed, with what it needs, which must be there too: there is no network. Others are put beside the program.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { pathToFileURL } from "node:url";

const [runtime, packages, program, ...files] = process.argv.slice(2);
globalThis.fetch = () => Promise.reject(new Error("no network"));
const { loadPyodide } = await import(pathToFileURL(`${runtime}/pyodide.mjs`));
const began = performance.now();
const pyodide = await loadPyodide({ indexURL: `${runtime}/` });
await pyodide.loadPackage(packages.split(","), { messageCallback() {} });
for (const file of files) pyodide.FS.writeFile(basename(file), new Uint8Array(readFileSync(file)));
const wheels = files.map((file) => basename(file)).filter((name) => name.endsWith(".whl"));
pyodide.globals.set("wheels", pyodide.toPy(wheels.map((name) => `emfs:${name}`)));
try {
  await pyodide.runPythonAsync("import micropip\nawait micropip.install(wheels)\nimport sys; sys.path.append('.')");
  pyodide.globals.set("loaded", (performance.now() - began) / 1000);
  await pyodide.runPythonAsync(readFileSync(program, "utf8"));
} catch (error) {
  console.error(String(error.message).slice(-5000));
  process.exitCode = 1;
}
