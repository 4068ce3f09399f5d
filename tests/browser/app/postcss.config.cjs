module.exports = {
  parser: "postcss-scss",
  plugins: [
    require("postcss-import")(),
    require("postcss-mixins")(),
    require("postcss-simple-vars")(),
    require("postcss-nested")(),
    require("postcss-easings")(),
    require("postcss-hexrgba")(),
  ],
};
