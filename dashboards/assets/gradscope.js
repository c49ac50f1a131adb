// What has to happen in the browser: the address bar, the theme, and the cells of the table.
window.dash_clientside = window.dash_clientside || {};

// Addresses that a page itself asked for since the user last went back, forward or along a link.
const gradscopeOwn = new Set();
let gradscopeGoing = false;
let gradscopeSelected = null;

function gradscopeVisit(address) {
    window.history.pushState({}, "", address);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
}
window.addEventListener("popstate", () => gradscopeOwn.clear());
window.addEventListener("_dashprivate_pushstate", () => {
    if (!gradscopeGoing) {
        gradscopeOwn.clear();
    }
});

window.dash_clientside.gradscope = {
    // Put where a page wants to go into the address bar; dcc.Location hears of it as it does of a clicked link.
    go: function () {
        const triggered = window.dash_clientside.callback_context.triggered;
        const goal = triggered.length ? triggered[0].value : null;
        if (goal && goal !== window.location.pathname + window.location.search) {
            gradscopeOwn.add(goal);
            gradscopeGoing = true;
            gradscopeVisit(goal);
            gradscopeGoing = false;
        }
        return window.dash_clientside.no_update;
    },
    // Select in the table what the address says, unless it says so because of a selection in the table: the user
    // may have selected more since.
    select: function (shown) {
        if (!shown || shown.search === gradscopeSelected) {
            return window.dash_clientside.no_update;
        }
        gradscopeSelected = shown.search;
        return gradscopeOwn.has("/" + shown.search) ? window.dash_clientside.no_update : {ids: shown.compare};
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
        gradscopeVisit(props.data.href);
    };
    return React.createElement("a", {href: props.data.href, onClick: follow, className: "run"}, props.value);
};

gradscopeCells.StatusBadge = function (props) {
    return React.createElement("span", {className: "badge " + props.value}, props.value);
};

// The order of the names is made where the rows are: numbers in them count as numbers.
const gradscopeFunctions = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});

gradscopeFunctions.byPlace = (one, other, node, otherNode) => node.data.place - otherNode.data.place;
