// First the page is there, then what is on it.
requestAnimationFrame(() => setTimeout(() => import("./app.js")));
