// Puts the user interface of Element Web, which npm has as a library, on the page. What element-web itself adds to it (start
// page, mobile guide, native platforms) is left out.
import "./globals";
import "matrix-js-sdk/src/browser-index";
import SdkConfig from "matrix-react-sdk/src/SdkConfig";

const homeserver = new URLSearchParams(window.location.search).get("homeserver");
window.mx_rage_logger = { bypassRageshake: (...args) => console.log(...args) };
SdkConfig.put({
  default_server_config: { "m.homeserver": { base_url: homeserver, server_name: "localhost" } },
  disable_guests: true,
  disable_3pid_login: true,
  brand: "Element",
});
// Some of it reads the configuration while it is loaded.
import("./app").then(({ start }) => start(homeserver));
