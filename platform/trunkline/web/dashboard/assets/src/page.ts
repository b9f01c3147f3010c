// On every page. Comfort only: the pages are complete without it.
import { offerCopies } from "./lib/copy";
import { enhance } from "./lib/enhance";
import { listenToKeys } from "./lib/keys";
import { keepRenewing } from "./lib/renew";
import { offerThemes } from "./lib/theme";
import { showLocalTimes } from "./lib/times";

enhance(showLocalTimes);
keepRenewing();
offerThemes();
offerCopies();
listenToKeys();
