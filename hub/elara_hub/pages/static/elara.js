// Forms of the pages become requests to the REST: data-method, data-path (with {field} for a field's value), and the
// other fields as the JSON body. The header X-Elara is what a foreign page cannot send.
"use strict";

const MESSAGE = "elara-message";

function fieldsOf(form) {
  const fields = {};
  for (const element of form.elements) {
    if (!element.name) continue;
    if (element.type === "number") {
      fields[element.name] = Math.round(Number(element.value) * Number(element.dataset.scale || 1));
    } else {
      fields[element.name] = element.value.trim();
    }
  }
  return fields;
}

function problemOf(form) {
  let place = form.querySelector(".problem");
  if (!place) {
    place = document.createElement("p");
    place.className = "problem";
    place.setAttribute("role", "alert");
    form.append(place);
  }
  return place;
}

async function send(form) {
  const fields = fieldsOf(form);
  const path = form.dataset.path.replace(/\{(\w+)\}/g, (_, name) => {
    const value = encodeURIComponent(fields[name]);
    delete fields[name];
    return value;
  });
  const options = { method: form.dataset.method, headers: { "X-Elara": "1", Accept: "application/json" } };
  if (options.method !== "DELETE") {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(fields);
  }
  const answer = await fetch(document.body.dataset.api + path, options);
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  if (answer.status === 401) throw new Error("Your sign-in has ended. Reload the page to sign in again.");
  const error = body.error || { message: `The service answered ${answer.status}.`, next_step: "Try again in a moment." };
  throw new Error(`${error.message} ${error.next_step}`);
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.method) return;
  event.preventDefault();
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  const button = form.querySelector("button");
  const problem = problemOf(form);
  problem.textContent = "";
  button.disabled = true;
  try {
    const answer = await send(form);
    if (form.dataset.show) {
      const output = form.querySelector("output");
      output.textContent = `${form.dataset.done} ${answer[form.dataset.show]}`;
      output.hidden = false;
      return;
    }
    sessionStorage.setItem(MESSAGE, form.dataset.done || "Done.");
    window.location.reload();
  } catch (error) {
    problem.textContent =
      error instanceof TypeError ? "The service does not answer. Try again in a moment." : error.message;
  } finally {
    button.disabled = false;
  }
});

const message = sessionStorage.getItem(MESSAGE);
if (message) {
  sessionStorage.removeItem(MESSAGE);
  document.getElementById("message").textContent = message;
}

for (const element of document.querySelectorAll("time[datetime]")) {
  const moment = new Date(element.dateTime);
  element.title = element.textContent;
  element.textContent = moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
