// Debian's Chromium and Firefox, each with a fresh profile and without traffic of their own.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium as playwright } from 'playwright-core';
import puppeteer from 'puppeteer-core';

export async function startChromium() {
  const profile = await mkdtemp(path.join(tmpdir(), 'tidings-chromium-'));
  const context = await playwright.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [
      '--headless=new',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  return new Browser(() => context.newPage(), () => context.close(), profile);
}

export async function startFirefox() {
  const profile = await mkdtemp(path.join(tmpdir(), 'tidings-firefox-'));
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
    headless: true,
    userDataDir: profile,
    timeout: 120_000,
    extraPrefsFirefox: {
      'app.normandy.enabled': false,
      'browser.safebrowsing.downloads.remote.enabled': false,
      'datareporting.policy.dataSubmissionEnabled': false,
      'extensions.getAddons.cache.enabled': false,
      'network.captive-portal-service.enabled': false,
      'network.connectivity-service.enabled': false,
      'services.settings.server': 'data:,#remote-settings-dummy/v1',
      'toolkit.telemetry.enabled': false,
    },
  });
  return new Browser(() => browser.newPage(), () => browser.close(), profile);
}

class Browser {
  #newPage;
  #close;
  #profile;

  constructor(newPage, close, profile) {
    this.#newPage = newPage;
    this.#close = close;
    this.#profile = profile;
  }

  /** @returns a page with `goto`, `evaluate` and `waitForFunction`, which both drivers have alike */
  newPage() {
    return this.#newPage();
  }

  async stop() {
    await this.#close();
    await rm(this.#profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
