import {h} from "./dom.js";
export const title = "Prefixes";
export const render = () => [h("h1", {tabindex: -1, key: "h"}, title)];
