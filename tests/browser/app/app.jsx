// Element Web's user interface on the page.
import * as React from "react";
import * as ReactDOM from "react-dom";
import PlatformPeg from "matrix-react-sdk/src/PlatformPeg";
import BasePlatform from "matrix-react-sdk/src/BasePlatform";
import SdkConfig from "matrix-react-sdk/src/SdkConfig";
import AutoDiscoveryUtils from "matrix-react-sdk/src/utils/AutoDiscoveryUtils";
import MatrixChat from "matrix-react-sdk/src/components/structures/MatrixChat";
import * as languages from "matrix-react-sdk/src/languageHandler";
import "matrix-react-sdk/res/themes/light/css/light.pcss";

class Platform extends BasePlatform {
  getConfig = async () => SdkConfig.get();
  getDefaultDeviceDisplayName = () => "Element in a browser";
  getHumanReadableName = () => "Browser";
  requestNotificationPermission = async () => "denied";
  getAppVersion = async () => "1";
  reload = () => window.location.reload();
}

export async function start(homeserver) {
  PlatformPeg.set(new Platform());
  await languages.setLanguage("en");
  const validated = await AutoDiscoveryUtils.validateServerConfigWithStaticUrls(homeserver, undefined, true);
  SdkConfig.add({ validated_server_config: { ...validated, isDefault: true } });
  ReactDOM.render(
    <MatrixChat
      onNewScreen={(screen, replace) => window.history[replace ? "replaceState" : "pushState"]({}, "", `#/${screen}`)}
      makeRegistrationUrl={(parameters) => `#/register?${new URLSearchParams(parameters)}`}
      config={SdkConfig.get()}
      realQueryParams={{}}
      startingFragmentQueryParams={{}}
      enableGuest={false}
      onTokenLoginCompleted={() => {}}
      initialScreenAfterLogin={screen()}
      defaultDeviceDisplayName="Element in a browser"
      ref={(chat) => (window.matrixChat = chat)}
    />,
    document.getElementById("matrixchat"),
  );
}

/** Where the address points to. */
function screen() {
  const [screen, query] = window.location.hash.slice(2).split("?");
  return { screen, params: Object.fromEntries(new URLSearchParams(query)) };
}
