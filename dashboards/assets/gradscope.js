// What has to happen in the browser: the address bar, the theme, and the cells of the table.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.gradscope = {
    // Put where a page wants to go into the address bar; dcc.Location hears of it as it does of a clicked link.
    go: function () {
        const triggered = window.dash_clientside.callback_context.triggered;
        const goal = triggered.length ? triggered[0].value : null;
        if (goal && goal !== window.location.pathname + window.location.search) {
            window.history.pushState({}, "", goal);
            window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
        }
        return window.dash_clientside.no_update;
    },
    theme: function (dark) {
        const name = dark ? "dark" : "light";
        document.documentElement.dataset.agThemeMode = name;
        return [name, name];
    },
};

const gradscopeCells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});

gradscopeCells.RunLink = function (props) {
    const follow = (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) {
            return;
        }
        event.preventDefault();
        window.history.pushState({}, "", props.data.href);
        window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    };
    return React.createElement("a", {href: props.data.href, onClick: follow, className: "run"}, props.value);
};

gradscopeCells.StatusBadge = function (props) {
    return React.createElement("span", {className: "badge " + props.value}, props.value);
};
