import {h} from "./dom.js";
export const title = "A/B";
export const render = () => [h("h1", {tabindex: -1, key: "h"}, title)];
