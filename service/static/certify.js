/** The view of a certificate: within which radius no change of the image changes the most probable answer. */

import { certify, certifyUrl } from "./api.js";
import { createCall, curlUpload, pythonClient, quote } from "./call.js";
import { writeLabel } from "./labels.js";
import { percent, plural } from "./numbers.js";
import { addNoise, readPixels, show } from "./pixels.js";

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createCertify = (studio) => {
  const call = createCall("certify");
  const ownSeed = String(Math.floor(Math.random() * 2 ** 53)); // so that sliders move alone

  const readOptions = () => ({
    sigma: element("sigma").value,
    samples: element("samples").value,
    size: element("averaged").value,
  });
  const writeOptions = () => (element("sigma").labels[0].lastElementChild.value = element("sigma").value);
  element("sigma").addEventListener("input", writeOptions);
  for (const id of ["sigma", "samples", "averaged"]) element(id).addEventListener("change", () => studio.ask());
  writeOptions();

  return {
    reset: (model) => {
      element("noisy").hidden = element("certificate").hidden = true;
      const { num_networks: most } = model.sampler;
      for (const option of element("averaged").options) option.disabled = most !== null && Number(option.value) > most;
      if (element("averaged").selectedOptions[0].disabled) element("averaged").value = "1";
      write("certify-note", "Draw something, or choose an image.");
      call.clear();
    },

    ask: async ({ model, image, seed: named }, signal) => {
      if (!image) return;
      const options = { ...readOptions(), seed: named || ownSeed };
      show(element("noisy"), addNoise(await readPixels(image, model.input), Number(options.sigma)));
      element("noisy").hidden = false;
      const answer = await certify(model.name, image, options, signal);
      studio.showSent(image);
      const [own] = answer.certificates;
      const text = explain(own, answer, model.input);
      element("certificate").hidden = false;
      writeLabel(element("certified-label"), own.label ?? "undecided");
      write("certified-radius", own.label === null ? "No radius is certified" : `Certified radius ${own.radius.toFixed(3)}`);
      write("certified-votes", `found in ${own.votes} of ${own.samples} noisy copies`);
      write("certify-note", text);
      write("summary", text);
      const path = certifyUrl(model.name, options);
      const { size, ...others } = options;
      const asked = { model: quote(model.name), ensemble_size: size, ...others };
      call.show(curlUpload(path, image.name), pythonClient("answer", "certify", [quote(image.name)], asked));
    },
  };
};

/** What a certificate says, in words. */
const explain = ({ label, radius, least_probability: least }, { networks, alpha }, { channels, width, height }) => {
  if (label === null) {
    return "The noise hides too much: no class is proved to be found in more than half of all noisy copies. Try less noise, or more networks for each copy.";
  }
  const whose = networks === null ? "Fresh networks" : `The model's ${plural(networks, "network")}`;
  const each = (255 * radius) / Math.sqrt(channels * width * height);
  return (
    `${whose} find ${label} in at least ${percent(least)} of all noisy copies. So no change shorter than ${radius.toFixed(3)} makes another class ` +
    `more probable: for example, all pixels by ${each.toFixed(1)} of 255 at once, or one by ${Math.round(255 * Math.min(1, radius))}. ` +
    `This is wrong with a probability of at most ${alpha}.`
  );
};
