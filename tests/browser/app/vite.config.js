// What the library leaves to webpack: pictures by `require`, pictures as components, texts and style sheets.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const pictures = {
  name: "pictures",
  enforce: "pre",
  transform(code, id) {
    if (!/matrix-react-sdk\/src\/.*\.tsx?$/.test(id)) return null;
    const imports = [];
    const replaced = code
      .replace('require("../../Notifier")', "window.mxNotifier") // where that module puts itself
      .replace(/require\(\s*(["'`])([^"'`]+\.(svg|png|woff2))\1,?\s*\)/g, (_, _quote, path, kind) => {
        const name = `required${imports.length}`;
        imports.push(`import ${name} from "${path}?url";`);
        return kind === "svg" ? `({ default: ${name} })` : name;
      });
    const addresses = replaced
      .replace('from "./RecorderWorklet"', 'from "./RecorderWorklet?url"')
      .replace(/from "(opus-recorder\/dist\/(?!recorder)[^"]+)"/g, 'from "$1?url"')
      .replace(/from "!!raw-loader!([^"]+)"/g, 'from "$1?raw"');
    // Vite takes only one that it can read here as a worker.
    const workers = addresses.replace(/(new Worker\()\s*(?:\/\*.*?\*\/)?\s*(new URL\([^)]*\)),[^;]*\);/gs, '$1$2, { type: "module" });');
    // On the first line, so that the lines keep their numbers.
    return { code: imports.join(" ") + workers, map: null };
  },
};

// Some modules that import each other in circles begin to work while they are loaded; here that waits until all are.
const circles = {
  name: "circles",
  enforce: "pre",
  transform(code, id) {
    if (!id.endsWith("/stores/ReadyWatchingStore.ts")) return null;
    return { code: code.replace("const matrixClient = MatrixClientPeg?.get();", "await null; $&"), map: null };
  },
};

const icons = {
  name: "icons",
  enforce: "pre",
  load(id) {
    if (!id.endsWith(".svg")) return null;
    return `import * as React from "react";
      import url from ${JSON.stringify(`${id}?url`)};
      export const Icon = ({ className, ...rest }) => React.createElement("img", { src: url, className, alt: "", ...rest });
      export default url;`;
  },
};

// The texts, where the library fetches them.
const texts = {
  name: "texts",
  enforce: "pre",
  resolveId: (id) => (id === "$webapp/i18n/languages.json" ? "\0languages" : null),
  load: (id) => (id === "\0languages" ? 'export default "i18n/languages.json";' : null),
  generateBundle() {
    const english = readFileSync("node_modules/matrix-react-sdk/src/i18n/strings/en_EN.json");
    this.emitFile({ type: "asset", fileName: "i18n/languages.json", source: '{"en":"en_EN.json"}' });
    this.emitFile({ type: "asset", fileName: "i18n/en_EN.json", source: english });
  },
};

const alias = [
  { find: /^util$/, replacement: "util/util.js" },
  // In style sheets.
  { find: "$(res)", replacement: fileURLToPath(new URL("node_modules/matrix-react-sdk/res", import.meta.url)) },
];

export default defineConfig({
  base: "./",
  plugins: [pictures, circles, icons, texts],
  define: { global: "globalThis", "process.env.NODE_ENV": '"production"', "process.env.VERSION": '"1"' },
  esbuild: { jsx: "transform", target: "es2022" },
  resolve: { alias, dedupe: ["react", "react-dom", "matrix-js-sdk"] },
  worker: { format: "es" },
  css: { postcss: "./postcss.config.cjs" },
  build: {
    target: "es2022",
    minify: false, // so that errors name what the library names
    rollupOptions: { onwarn: (warning, tell) => warning.code === "MODULE_LEVEL_DIRECTIVE" || tell(warning) },
  },
});
