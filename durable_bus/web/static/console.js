// What needs a script: keys, the slider, the pause button, questions before what cannot be undone. Every page works without.
"use strict";

document.documentElement.classList.add("js");

let paused = false;

function is_typing() {
    const element = document.activeElement;
    return element && element.matches("input:not([type=range]):not([type=checkbox]), textarea, select");
}

// A page does not change under the hands of somebody who types, nor while it is paused.
document.addEventListener("htmx:sse:before:message", (event) => {
    if (paused || is_typing()) event.preventDefault();
});

// The slider's end goes with the journal.
document.addEventListener("changed", (event) => {
    const commit = JSON.parse(event.detail.data).commit;
    const range = document.querySelector("#slider input[type=range]");
    if (!range || paused || range === document.activeElement || is_typing()) return;
    for (const input of [range, document.getElementById("at")]) {
        input.max = commit;
        input.value = commit;
    }
});

// With the console gone the page says so instead of looking alive. A first connection that fails has events of its own, and
// htmx does not try again by itself: "again" is the other trigger of the body's connection.
const AGAIN_MS = 3000;

function is_live(live) {
    document.body.classList.toggle("live", live);
    document.body.classList.toggle("stale", !live);
    document.getElementById("lost").textContent = live ? "" : "The console does not answer: this is not live.";
}

document.addEventListener("htmx:sse:after:connection", () => is_live(true));
document.addEventListener("htmx:sse:error", () => is_live(false));
for (const name of ["htmx:error", "htmx:response:error"]) {
    document.addEventListener(name, (event) => {
        if (event.target !== document.body) return;
        is_live(false);
        setTimeout(() => htmx.trigger(document.body, "again"), AGAIN_MS);
    });
}

function pause() {
    const button = document.getElementById("pause");
    if (!button) return;
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Freeze page";
    document.body.classList.toggle("paused", paused);
}

document.addEventListener("click", (event) => {
    if (event.target.id === "pause") pause();
});

document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
});

// The slider: it says where it is while it moves, and goes there when it is let go. Its end is now.
document.addEventListener("input", (event) => {
    if (event.target.type === "range") document.getElementById("at").value = event.target.value;
});

document.addEventListener("change", (event) => {
    const input = event.target;
    if (input.name !== "at" || !input.form) return;
    if (input.value === input.max) {
        const url = new URL(window.location.href);
        url.searchParams.delete("at");
        window.location.assign(url);
    } else {
        HTMLFormElement.prototype.submit.call(input.form); // a parameter of the address may be called submit
    }
});

document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || is_typing()) return;
    const link = {"[": "earlier", "]": "later"}[event.key];
    if (event.key === "p") {
        pause();
    } else if (event.key === "/") {
        const search = document.getElementById("search") || document.getElementById("sql");
        if (search) search.focus();
        else window.location.assign(document.querySelector("nav a:nth-of-type(2)").href);
        event.preventDefault();
    } else if (link) {
        document.getElementById(link)?.click();
    } else if (event.key >= "1" && event.key <= "6") {
        document.querySelectorAll("header nav a")[Number(event.key) - 1]?.click();
    }
});
