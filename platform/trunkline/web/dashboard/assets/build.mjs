// Bundles src/ into the folder named on the command line, names with a hash of their content, and
// writes manifest.json: name in the templates -> file, and the chunks a script will ask for.
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { build } from "esbuild";

const [out = "dist"] = process.argv.slice(2);
const common = {
  bundle: true,
  minify: true,
  metafile: true,
  outdir: out,
  target: ["es2022", "chrome123", "firefox125", "safari17.5"],
  entryNames: "[name]-[hash]",
  chunkNames: "chunk-[hash]",
  assetNames: "[name]-[hash]",
  legalComments: "linked",
  logLevel: "warning",
};

const files = (await readdir("src", { withFileTypes: true })).filter((entry) => entry.isFile());
const named = (test) => files.filter((file) => test(file.name)).map((file) => join("src", file.name));
// head.ts runs before the first paint, so it is a classic script, which a module cannot be.
const builds = await Promise.all([
  build({
    ...common,
    entryPoints: named((name) => /\.(ts|css)$/.test(name) && name !== "head.ts"),
    format: "esm",
    splitting: true,
  }),
  build({ ...common, entryPoints: ["src/head.ts"], format: "iife" }),
  build({
    ...common,
    entryPoints: named((name) => /\.(svg|png|woff2)$/.test(name)),
    loader: { ".svg": "copy", ".png": "copy", ".woff2": "copy" },
  }),
]);

const assets = {};
for (const { metafile } of builds) {
  for (const [file, made] of Object.entries(metafile.outputs)) {
    const entry = made.entryPoint ?? Object.keys(made.inputs)[0];
    if (!entry || !/^src\/[^/]+$/.test(entry) || (!made.entryPoint && !file.endsWith(".svg"))) continue;
    const name = basename(entry).replace(/\.ts$/, ".js");
    const needs = made.imports.filter((found) => found.kind === "import-statement");
    assets[name] = { file: basename(file), needs: needs.map((found) => basename(found.path)) };
  }
}
await mkdir(out, { recursive: true });
await writeFile(join(out, "manifest.json"), `${JSON.stringify(assets, null, 1)}\n`);
