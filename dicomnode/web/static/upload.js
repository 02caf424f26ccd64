// Files are sent one after the other, each as the body of a request; then the upload is begun.
"use strict";
(() => {
  const form = document.getElementById("upload");
  const [drop, chosen, send, bar, remarks] = ["drop", "chosen", "send", "bar", "remarks"].map((id) => document.getElementById(id));
  const token = form.dataset.token;
  let files = [];

  const isNifti = (file) => /\.nii(\.gz)?$/i.test(file.name);
  const show = () => {
    chosen.replaceChildren();
    send.disabled = files.length === 0;
    if (!files.length) return;
    const line = document.createElement("p");
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    line.textContent = `${files.length} ${files.length === 1 ? "file" : "files"}, ${(bytes / 1e6).toFixed(1)} MB`;
    chosen.append(line);
    files.filter(isNifti).slice(0, 20).forEach((file, number) => {
      const row = document.createElement("p");
      const label = document.createElement("label");
      const select = document.createElement("select");
      select.id = `role-${number}`;
      label.htmlFor = select.id;
      label.textContent = `${file.name} is`;
      for (const [value, text] of [["", "choose"], ["t1", "a T1"], ["flair", "a FLAIR"]]) select.add(new Option(text, value));
      select.value = /flair/i.test(file.name) ? "flair" : /t1|mprage/i.test(file.name) ? "t1" : "";
      file.roleChoice = select;
      row.append(label, select);
      chosen.append(row);
    });
  };
  const add = (more) => { files = files.concat(more); remarks.textContent = ""; show(); };
  for (const id of ["files", "folder"]) {
    const input = document.getElementById(id);
    input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  }
  const walk = async (entry) => {
    if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
    const reader = entry.createReader();
    const all = [];
    for (;;) {
      const entries = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!entries.length) return all;
      for (const below of entries) all.push(...await walk(below));
    }
  };
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    for (const entry of entries) add(await walk(entry));
  });

  const post = async (address, fields) => {
    const answer = await fetch(address, { method: "POST", body: new URLSearchParams({ form_token: token, ...fields }) });
    if (!answer.ok) throw new Error(await reason(answer));
    return answer;
  };
  const reason = async (answer) => {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const sentence = page.querySelector("main p");
    return sentence ? sentence.textContent : page.body.textContent || `The server answered ${answer.status}.`;
  };
  const remark = (text) => { const line = document.createElement("p"); line.className = "notice bad"; line.textContent = text; remarks.append(line); };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    bar.hidden = false;
    remarks.replaceChildren();
    try {
      const { name } = await (await post("/uploads", {})).json();
      let taken = 0;
      let leftOut = 0;
      for (const [number, file] of files.entries()) {
        const headers = { "X-Form-Token": token, "X-File-Name": encodeURIComponent(file.name.slice(-100)), "X-Role": file.roleChoice ? file.roleChoice.value : "", "Content-Type": "application/octet-stream" };
        const answer = await fetch(`/uploads/${name}/files`, { method: "POST", headers, body: file });
        if (answer.ok) taken += 1;
        else if (answer.status === 415) { leftOut += 1; if (leftOut <= 5) remark(`${file.name}: ${await reason(answer)}`); }
        else throw new Error(await reason(answer));
        bar.value = (number + 1) / files.length;
      }
      if (!taken) throw new Error("None of these files can be worked on.");
      await post(`/uploads/${name}/start`, {});
      location.assign(`/uploads/${name}`);
    } catch (problem) {
      remark(problem.message || "The connection broke off; nothing was begun.");
      send.disabled = false;
      bar.hidden = true;
    }
  });
})();
