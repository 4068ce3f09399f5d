// What some of the libraries expect to be there, as webpack has it.
import { Buffer } from "buffer/";

globalThis.Buffer = Buffer;
globalThis.process = { env: {} };
